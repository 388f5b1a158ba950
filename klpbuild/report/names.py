"""Names of the files that are written about a module, and of its modinfo tags."""

#: The list of inputs, in the livepatch's directory of outputs.
INPUTS = "inputs.json"

#: Suffixes of what `klpbuild.pipeline.documents.write_documents` writes.
PROVENANCE, PAGE = ".provenance.json", ".html"
SUFFIXES = (PROVENANCE, ".cdx.json", ".openvex.json", PAGE)

#: Tags of modinfo.
VERSION_TAG, INPUTS_TAG, REFERENCE_TAG = "klpbuild", "klpbuild_inputs", "klpbuild_reference"
