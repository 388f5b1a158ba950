"""The words of the command ``klpbuild``, one module each."""
