"""The line between the HTTP process and the core process: one socket pair, framed messages, no shared GIL."""
