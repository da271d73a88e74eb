#!/bin/sh
# timed EVENT COMMAND...: what repmgr runs on both sides; notes when the hook began and ended, and changes nothing else.
event=$1
shift
echo "begin $(date +%s.%3N) $$ $event" >>/var/tmp/timed.log
"$@"
code=$?
echo "end $(date +%s.%3N) $$ $event $code" >>/var/tmp/timed.log
exit $code
