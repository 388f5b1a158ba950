"""From a converted module to a release: variables, signature, compression, installation."""
