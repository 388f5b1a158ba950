"""Stands for apt-get and apt-cache: a pool of small real packages.

Run as ``fake_apt.py POOL apt-cache|apt-get ARGUMENTS``.  ``POOL/offers.json`` lists
the packages; ``POOL/calls`` records every call.  What is offered with ``fake-suite`` is
seen with a configuration of klpbuild's own only, and where ``POOL/mirror`` is there.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path


def main(pool: Path, program: str, arguments: list[str]) -> int:
    with (pool / "calls").open("a") as calls:
        calls.write(" ".join([program, *arguments]) + "\n")
    offers = json.loads((pool / "offers.json").read_text())
    if "APT_CONFIG" not in os.environ:
        offers = [offer for offer in offers if "fake-suite" not in offer]
    words = [word for word in arguments if not word.startswith("-") and "::" not in word]
    if words[0] == "indextargets":
        if (pool / "mirror").exists():
            print("http://mirror/debian/\tbookworm\tDebian\tDebian")
        return 0
    if words[0] == "update":
        return 0
    if "install" in words:
        archives = next(a.partition("=")[2] for a in arguments if "::archives=" in a)
        names = {word.partition("=")[0] for word in words}
        for offer in offers:
            if offer["Package"] in names:
                shutil.copy(pool / offer["Filename"], archives)
        return 0
    if words[0] == "madison":
        for offer in offers:
            if offer["Package"] in words[1:] and "fake-suite" in offer:
                suite = f"http://mirror/debian {offer['fake-suite']}/main amd64 Packages"
                print(f"{offer['Package']} | {offer['Version']} | {suite}")
        return 0
    if words[0] == "pkgnames":
        print("\n".join({o["Package"] for o in offers if o["Package"].startswith(words[1])}))
        return 0
    if words[0] == "show":
        found = [offer for offer in offers if offer["Package"] in words[1:]]
        for offer in found:
            fields = {k: v for k, v in offer.items() if not k.startswith("fake-")}
            print("\n".join(f"{key}: {value}" for key, value in fields.items()) + "\n")
        return 0 if found else 100
    name, _, version = words[1].partition("=")
    offer = next(o for o in offers if (o["Package"], o["Version"]) == (name, version))
    time.sleep(offer.get("fake-seconds", 0))
    if "fake-failure" in offer:
        print("Get:1 something", offer["fake-failure"], sep="\n", file=sys.stderr)
        return 100
    shutil.copy(pool / offer["Filename"], Path(offer["Filename"]).name)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
