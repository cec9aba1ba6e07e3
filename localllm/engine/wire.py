"""Commands and events as lines of JSON: `["Token",{...}]` and a newline."""
