"""Make a livepatch module step by step: what SCons runs as nodes and the commands in order."""
