#!/bin/sh
# What the DAG runs on the access point: a step of the run in whose folder this lies.
PYTHONPATH={{ path }}${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
exec {{ python }} -m lenspipe dag . -- "$@"
