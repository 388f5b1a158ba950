"""From a source patch to objects that hold only what it changes."""
