"""Turn a converted module into a release: signed, compressed, installed, packaged."""
