"""What is known of a finished livepatch: provenance, bill of materials, report page."""
