"""Names of the files that are written about a module, and of its modinfo tags."""

#: Where the inputs are kept, in the livepatch's directory of outputs.
INPUTS = "inputs.json"

#: What `klpbuild.pipeline.documents.write_documents` writes, after the module's name.
PROVENANCE = ".provenance.json"
SUFFIXES = (PROVENANCE, ".cdx.json", ".openvex.json", ".html")

#: Tags of modinfo.
VERSION_TAG, INPUTS_TAG, REFERENCE_TAG = "klpbuild", "klpbuild_inputs", "klpbuild_reference"
