"""The configs of all methods. Each file has `get_config(argument)`; `diffpose train --config NAME:ARGUMENT` names it."""
