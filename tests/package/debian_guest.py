"""Boot the Debian on a disk, with systemd, and run shell lines in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klpbuild.kernel.tree import Kernel
from klpbuild.vm.accelerator import choose_accelerator
from klpbuild.vm.busybox import find_busybox
from klpbuild.vm.channel import Record, RecordReader, Word
from klpbuild.vm.cpio import Archive
from klpbuild.vm.machine import machine_for
from klpbuild.vm.modules import GuestModules
from klpbuild.vm.qemu import qemu_command, run

#: Seconds without a word after which a guest is given up.
QUIET_LIMIT = 400.0

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox mount -t tmpfs test /new/test
/bin/busybox cp /test/* /new/test/
exec /bin/busybox switch_root /new /sbin/init
"""

_RUN = """
# Nothing but these records goes to the port: see klpbuild.vm.channel.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1 </dev/null
record() {
	echo "$1 $2 $3 $(stat -c %s "$4")" >&3
	cat "$4" >&3
	echo >&3
}
uname -r >/run/release
record ready 0 0 /run/release
number=0
for step in /test/step-*; do
	sh "$step" >/run/output 2>&1
	record end $number $? /run/output
	number=$((number + 1))
done
: >/run/output
record done 0 0 /run/output
systemctl --no-block reboot
"""


@dataclass(frozen=True)
class Ran:
    """What became of a shell line."""

    line: str
    status: int
    output: str


@dataclass(frozen=True)
class DebianGuest:
    """A computer with one disk, which keeps what is written from one boot to the next."""

    disk: Path

    def boot(
        self, kernel: Kernel, *lines: str, files: tuple[Path, ...] = (), parameters: str = ""
    ) -> list[Ran]:
        """Boot, run shell lines, reboot.

        :param kernel: the kernel; its modules need not be on the disk.
        :param files: go to /test.
        :param parameters: more for the kernel's command line.
        :returns: what became of each line.
        """
        assert kernel.image is not None
        machine = machine_for(kernel.arch)
        initramfs = self.disk.with_name("initramfs")
        initramfs.write_bytes(self._initramfs(kernel, lines, files))
        console = self.disk.with_name("console.log")
        command = list(
            qemu_command(
                machine,
                accelerator=choose_accelerator(machine, kernel.image),
                image=kernel.image,
                initramfs=initramfs,
                console=console,
                memory=768,
                processors=2,
            )
        )
        command[-1] += f" systemd.show_status=0 {parameters}"
        command += ["-drive", f"file={self.disk},format=raw,if=virtio,cache=unsafe"]
        records: list[Record] = []
        reader = RecordReader()
        ended = run(tuple(command), lambda data: records.extend(reader.feed(data)), QUIET_LIMIT)
        last = console.read_text(errors="replace")[-3000:]
        assert [r.word for r in records[-1:]] == [Word.DONE], f"{records} {ended} {last}"
        assert records[0].payload.decode().strip() == kernel.release
        assert not ended.timed_out, "the guest did not reboot"
        ends = [record for record in records if record.word is Word.END]
        return [
            Ran(line, end.value, end.payload.decode(errors="replace"))
            for line, end in zip(lines, ends, strict=True)
        ]

    def _initramfs(self, kernel: Kernel, lines: tuple[str, ...], files: tuple[Path, ...]) -> bytes:
        archive = Archive()
        for directory in ("/dev", "/new", "/test"):
            archive.add_directory(directory)
        archive.add_device("/dev/console", 5, 1)
        archive.add_file("/bin/busybox", find_busybox(kernel.arch).read_bytes(), 0o755)
        archive.add_file("/init", _INIT.encode(), 0o755)
        modules = GuestModules.of(kernel)
        for number, name in enumerate(modules.closure(["virtio_pci", "virtio_blk", "ext4"])):
            archive.add_file(f"/modules/{number:02}-{name}.ko", modules.read(name))
        archive.add_file("/test/run", _RUN.encode(), 0o755)
        for number, line in enumerate(lines):
            archive.add_file(f"/test/step-{number:02}", line.encode())
        for path in files:
            archive.add_file(f"/test/{path.name}", path.read_bytes())
        return archive.finish()
