"""Know what a distribution knows of its kernels: packages, releases, places, tools."""
