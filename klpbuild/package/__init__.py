"""From a converted module to a release: signed, compressed, installed, packaged."""
