"""Messages on functions in which kernel threads stay, and the tag by which an author accepts one.

Apart from `klpbuild.kernel.threads`, which reads code: to say it takes no such import.
"""

from __future__ import annotations

#: Why a function in which a thread stays is not replaced, and what to do.
WHY = "A transition to the livepatch does not end while such a thread runs"
HINT = (
    "Change a function that it calls.  If none runs when the livepatch is loaded, accept it:\n"
    '--accept-thread {function}, or accept_threads = ["{function}"] in livepatch.toml.'
)

#: Tag of modinfo: a function that the module's author accepts.
ACCEPT_TAG = "klpbuild_accept_thread"
