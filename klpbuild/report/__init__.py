"""Describe a finished livepatch: provenance, bill of materials, report page."""
