"""A livepatch module: its description, its generated tables, its link by kbuild."""
