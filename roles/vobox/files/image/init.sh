#!/bin/sh
# The VO-box's own init script comes from outside and is found here. Without one there is nothing to run.
echo "no init script: start this image with hep.gridbox.vobox_container and its option init_script" >&2
exit 1
