from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.kernel import kbuild
from klpbuild.kernel.kbuild import find_compiler, run_make
from klpbuild.kernel.locate import locate
from klpbuild.kernel.prepare import kernel_compiler
from klpbuild.kernel.tree import Kernel, Toolchain
from tests.kernel.machines import CONFIG, prepared_tree, write

GCC_12 = "(Debian 12.2.0-14+deb12u1) 12.2.0"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of compilers that hides the machine's own."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in ("make", "sh", "env", "sort", "echo", "head"):
        real = next(Path(p, name) for p in ("/usr/bin", "/bin") if Path(p, name).exists())
        (directory / name).symlink_to(real)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return directory


def add_compiler(programs: Path, name: str, version: str) -> None:
    program = write(programs / name, f'#!/bin/sh\necho "{name} {version}"\necho more\n')
    program.chmod(0o755)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return locate(str(prepared_tree(tmp_path / "linux", "6.1.170-custom")))


def test_make_sees_nothing_of_the_users_shell(
    kernel: Kernel, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    for name in ("KCFLAGS", "MAKEFLAGS", "CROSS_COMPILE", "LANG", "CC", "CPATH", "V"):
        monkeypatch.setenv(name, "s")
    monkeypatch.setenv("CCACHE_DIR", "/ccache")
    module, log = tmp_path / "module", tmp_path / "logs" / "build.log"
    output = run_make(kernel, module, "modules", variables={"EXTRA": "1 2"}, log=log)
    first, *environment = output.splitlines()
    assert first.startswith(f"CC=gcc-12 ARCH=x86 M={module} symvers=Module.symvers")
    seen = dict(line.split("=", 1) for line in environment if "=" in line)
    assert not {"KCFLAGS", "CROSS_COMPILE", "CPATH", "V"} & set(seen)
    assert seen["LANG"] == seen["LC_ALL"] == "C"
    assert seen["CCACHE_DIR"] == "/ccache"
    assert seen["EXTRA"] == "1 2"
    assert seen["KBUILD_BUILD_TIMESTAMP"] == "Thu Jan  1 00:00:00 UTC 1970"
    assert seen["KBUILD_BUILD_USER"] == seen["KBUILD_BUILD_HOST"] == "klpbuild"

    said = log.read_text()
    assert said.startswith("$ env -i CCACHE_DIR=/ccache ")
    assert f"make --no-print-directory -j1 -C {kernel.build} ARCH=x86 CC=gcc-12 M={module}" in said
    assert "'EXTRA=1 2' modules\n" in said
    assert output in said


def test_the_logged_command_can_be_run_again(
    kernel: Kernel, programs: Path, tmp_path: Path
) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    log = tmp_path / "build.log"
    output = run_make(kernel, tmp_path / "module", "modules", log=log)
    command = log.read_text().splitlines()[0].removeprefix("$ ")
    again = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert again.stdout == output


def test_a_failure_shows_the_lines_that_tell_why(
    kernel: Kernel, programs: Path, tmp_path: Path
) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    with pytest.raises(KlpError) as caught:
        run_make(kernel, tmp_path / "module", "failing", log=tmp_path / "log")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{kernel.build}: kbuild failed: make failing"
    assert lines[1] == "  x.c:3: error: no such thing"
    assert "quiet" not in str(caught.value)
    assert lines[-1] == f"  The whole output is in {tmp_path}/log."


def test_what_another_compiler_does_not_take_begins_with_whose_fault_it_is(
    kernel: Kernel, programs: Path, tmp_path: Path
) -> None:
    add_compiler(programs, "gcc", "(Debian 14.2.0-19) 14.2.0")
    with pytest.raises(KlpError) as caught:
        run_make(kernel, tmp_path / "module", "failing")
    assert str(caught.value).splitlines()[1:3] == [
        f"  the kernel was built by gcc-12 {GCC_12}, this machine has gcc (Debian 14.2.0-19) "
        "14.2.0: the same source may become other code; gcc-12 would be the right one",
        "  x.c:3: error: no such thing",
    ]


def test_long_lines_of_output_are_cut() -> None:
    assert kbuild.shortened("x" * 400) == "x" * 400
    assert kbuild.shortened("x" * 3000) == "x" * 400 + " [...]"


def test_a_directory_that_make_cannot_take_is_refused(
    kernel: Kernel, programs: Path, tmp_path: Path
) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    with pytest.raises(KlpError) as caught:
        run_make(kernel, tmp_path / "my module", "modules")
    assert str(caught.value) == (
        f"{tmp_path}/my module: kbuild cannot work in this directory\n"
        "  Its name has a character that means something to make.\n"
        "  Choose a path without spaces and without % : # $ ' \" \\."
    )


@pytest.mark.parametrize("name", ["$(shell touch ran)", "`touch ran`", "a;b", "a&b", "a(b)", "a*"])
def test_no_path_is_expanded(
    kernel: Kernel, programs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    monkeypatch.chdir(tmp_path)
    for build, module in ((kernel.build, tmp_path / name), (tmp_path / name, tmp_path / "module")):
        with pytest.raises(KlpError, match="kbuild cannot work in this directory"):
            run_make(replace(kernel, build=build), module, "modules")
    with pytest.raises(KlpError, match="kbuild cannot work in this directory"):
        kbuild.build_fixtures(tmp_path, tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_without_make(kernel: Kernel, programs: Path, tmp_path: Path) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    (programs / "make").unlink()
    with pytest.raises(KlpError) as caught:
        run_make(kernel, tmp_path, "modules")
    assert str(caught.value) == (
        "make is not on this machine\n  Install the packages make and gcc."
    )


def test_the_kernels_own_compiler_is_preferred(kernel: Kernel, programs: Path) -> None:
    add_compiler(programs, "gcc", "(Debian 13.2.0-1) 13.2.0")
    add_compiler(programs, "gcc-12", GCC_12)
    compiler = find_compiler(kernel)
    assert (compiler.command, compiler.is_kernels, compiler.warning) == ("gcc-12", True, "")


def test_the_name_that_the_kernel_knows_is_preferred(kernel: Kernel, programs: Path) -> None:
    """kbuild compares the whole line, which begins with the name, and warns."""
    text = kernel.config.read_text()
    kernel.config.write_text(text.replace('VERSION_TEXT="gcc-12 ', 'VERSION_TEXT="gcc '))
    for name in ("gcc-12", "gcc"):
        add_compiler(programs, name, GCC_12)
    assert find_compiler(kernel).command == "gcc"


def test_a_compiler_of_the_same_version_under_another_name(kernel: Kernel, programs: Path) -> None:
    add_compiler(programs, "gcc", GCC_12)
    compiler = find_compiler(kernel)
    assert (compiler.command, compiler.warning) == ("gcc", "")


def test_another_compiler_is_a_warning(kernel: Kernel, programs: Path) -> None:
    add_compiler(programs, "gcc-12", "(Debian 12.3.0-1) 12.3.0")
    add_compiler(programs, "gcc", "(Debian 13.2.0-1) 13.2.0")
    compiler = find_compiler(kernel)
    assert compiler.command == "gcc-12", "of the same major version"
    assert compiler.warning == (
        f"the kernel was built by gcc-12 {GCC_12}, this machine has gcc-12 (Debian 12.3.0-1) "
        "12.3.0: the same source may become other code; gcc-12 would be the right one"
    )


def test_no_compiler_is_an_error(kernel: Kernel, programs: Path) -> None:
    with pytest.raises(KlpError) as caught:
        find_compiler(kernel)
    assert str(caught.value) == (
        "no compiler for x86_64 is on this machine\n"
        f"  6.1.170-custom was built by gcc-12 {GCC_12}.  Looked for: gcc-12, gcc.\n"
        "  Install gcc-12."
    )


def test_another_architectures_kernel_takes_a_cross_compiler(
    tmp_path: Path, programs: Path
) -> None:
    config = CONFIG.replace("X86_64", "ARM64")
    kernel = locate(str(prepared_tree(tmp_path / "arm", "6.1.170-arm64", config)))
    add_compiler(programs, "gcc-12", GCC_12)
    with pytest.raises(KlpError) as caught:
        find_compiler(kernel)
    assert str(caught.value) == (
        "no compiler for aarch64 is on this machine\n"
        f"  6.1.170-arm64 was built by gcc-12 {GCC_12}.  Looked for: "
        "aarch64-linux-gnu-gcc-12, aarch64-linux-gnu-gcc.\n"
        "  Install gcc-12-aarch64-linux-gnu."
    )
    add_compiler(programs, "aarch64-linux-gnu-gcc-12", GCC_12)
    output = run_make(kernel, tmp_path / "module", "modules")
    assert output.startswith("CC=aarch64-linux-gnu-gcc-12 ARCH=arm64 ")
    assert "CROSS_COMPILE=aarch64-linux-gnu-\n" in output


def test_a_kernel_built_by_clang(tmp_path: Path, programs: Path) -> None:
    clang = "Debian clang version 14.0.6"
    config = CONFIG.replace(f"gcc-12 {GCC_12}", clang) + "CONFIG_LD_IS_LLD=y\n"
    kernel = locate(str(prepared_tree(tmp_path / "clang", "6.1.170-clang", config)))
    program = write(programs / "clang-14", f"#!/bin/sh\necho '{clang}'\n")
    program.chmod(0o755)
    compiler = find_compiler(kernel)
    assert (compiler.command, compiler.warning) == ("clang-14", "")
    assert kbuild.make_variables(kernel)["LLVM"] == "-14"
    assert kbuild.llvm_variables(kernel, "/opt/llvm/bin/clang-14") == {"LLVM": "1"}
    assert kernel_compiler(kernel) == "clang-14"
    assert kbuild.linker_suffix(kernel) == "-14"


def test_a_patch_needs_the_kernels_own_version(kernel: Kernel, programs: Path) -> None:
    (programs / "gcc").unlink(missing_ok=True)
    add_compiler(programs, "gcc-12", "(Debian 12.2.0-99) 12.2.0")
    assert kernel_compiler(kernel) == "gcc-12"
    (programs / "gcc-12").unlink()
    add_compiler(programs, "gcc", "(Debian 14.2.0-19) 14.2.0")
    with pytest.raises(KlpError) as caught:
        kernel_compiler(kernel)
    assert str(caught.value) == (
        f"{kernel.name}: the compiler that built this kernel is not on this machine\n"
        f"  It was built by gcc-12 {GCC_12}; here is gcc (Debian 14.2.0-19) 14.2.0.\n"
        "  A patch is compiled with the compiler that built the kernel, so that all that it does "
        "not change comes out the same.\n"
        "  Install gcc-12, or name the compiler with CC=."
    )


def test_no_patch_for_a_kernel_with_kasan_that_clang_built(kernel: Kernel) -> None:
    with kernel.config.open("a") as config:
        config.write("CONFIG_KASAN=y\nCONFIG_KASAN_GENERIC=y\nCONFIG_CC_IS_CLANG=y\n")
    with pytest.raises(KlpError) as caught:
        kernel_compiler(kernel)
    assert str(caught.value) == (
        f"{kernel.name}: CONFIG_KASAN_GENERIC is set, and clang built it: no patch can be built\n"
        "  What gcc puts between variables for KASAN is known here, and clang's is not.\n"
        "  Write the livepatch by hand, or use a kernel without it."
    )


def said_of(kernel: Kernel, **toolchain: str) -> str:
    with pytest.raises(KlpError) as caught:
        kbuild.check_toolchain(replace(kernel, toolchain=Toolchain(**toolchain)))
    return str(caught.value)


@pytest.mark.parametrize("name", ["CC", "CROSS_COMPILE", "KCFLAGS"])
def test_the_users_tools_are_names_and_flags(kernel: Kernel, programs: Path, name: str) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    for value in ("$(shell touch ran)", "-O2 `touch ran`", "-O2;touch ran", "-O2\ntouch ran"):
        shown = value.replace("\n", "\\n")
        assert said_of(kernel, **{name.lower(): value}) == (
            f"{name}={shown}: has a character that means something to make or to a shell\n"
            "  kbuild hands it to both, and they would run what follows.\n"
            "  Leave out $ ` ; & | < > and line breaks."
        )
    good = Toolchain(cc="gcc-12", kcflags="-DX='\"a b\"' -DY=\\(1\\)")
    kbuild.check_toolchain(replace(kernel, toolchain=good))


def test_the_users_tools(kernel: Kernel, programs: Path, tmp_path: Path) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    add_compiler(programs, "my-gcc-12", GCC_12)
    add_compiler(programs, "special", "(Special 1) 12.9.0")
    for toolchain, said in (
        (Toolchain(cc="special"), "CC=special ARCH=x86 "),
        (Toolchain(cross_compile="my-"), "CC=my-gcc-12 ARCH=x86 "),
        (Toolchain(arch="x86_64"), "CC=gcc-12 ARCH=x86_64 "),
    ):
        chosen = replace(kernel, toolchain=toolchain)
        kbuild.check_toolchain(chosen)
        assert run_make(chosen, tmp_path / "module", "modules").startswith(said)
    chosen = replace(kernel, toolchain=Toolchain(cross_compile="my-", kcflags="-O3 -g"))
    assert kbuild.make_variables(chosen) == {
        "ARCH": "x86", "CC": "my-gcc-12", "CROSS_COMPILE": "my-", "KCFLAGS": "-O3 -g",
    }  # fmt: skip


def test_a_launcher_before_the_compiler(kernel: Kernel, programs: Path) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    write(programs / "launcher", '#!/bin/sh\nexec "$@"\n').chmod(0o755)
    compiler = find_compiler(replace(kernel, toolchain=Toolchain(cc="launcher gcc-12")))
    assert (compiler.command, compiler.warning) == ("launcher gcc-12", "")


def test_tools_that_cannot_be_used(kernel: Kernel, programs: Path) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    write(programs / "arm-gcc", "#!/bin/sh\necho aarch64-linux-gnu\n").chmod(0o755)
    assert said_of(kernel, cc="no-such-gcc") == (
        "CC=no-such-gcc: is not a compiler on this machine\n"
        "  It must say its version when it is called with --version."
    )
    assert said_of(kernel, cc="gcc-12 'unclosed").startswith("CC=gcc-12 'unclosed: is not")
    assert said_of(kernel, cc="arm-gcc") == (
        "CC=arm-gcc: compiles for aarch64, and the kernel is for x86_64\n"
        "  Leave it out: klpbuild looks for the compiler by the kernel."
    )
    assert said_of(kernel, cross_compile="arm-") == (
        "CROSS_COMPILE=arm-: compiles for aarch64, and the kernel is for x86_64\n"
        "  Leave it out: klpbuild looks for the compiler by the kernel."
    )
    assert said_of(kernel, arch="arm64") == (
        "ARCH=arm64: the kernel is for x86_64, which kbuild calls x86\n"
        f"  {kernel.config} says so.\n"
        "  Leave ARCH out: klpbuild knows it from the kernel."
    )
    assert said_of(kernel, cross_compile="none-") == (
        "no compiler for x86_64 is on this machine\n"
        f"  6.1.170-custom was built by gcc-12 {GCC_12}.  Looked for: none-gcc-12, none-gcc.\n"
        "  CROSS_COMPILE says what their names begin with."
    )


def test_the_time_of_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    said = kbuild.build_environment()
    assert said["KBUILD_BUILD_TIMESTAMP"] == "Tue Nov 14 22:13:20 UTC 2023"
    assert said["SOURCE_DATE_EPOCH"] == "1700000000"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    said = kbuild.build_environment()
    assert said["KBUILD_BUILD_TIMESTAMP"] == "Thu Jan  1 00:00:00 UTC 1970"


def test_the_log_of_parallel_builds_keeps_each_command_whole(
    kernel: Kernel, programs: Path, tmp_path: Path
) -> None:
    add_compiler(programs, "gcc-12", GCC_12)
    log = tmp_path / "log"
    with ThreadPoolExecutor(4) as pool:
        outputs = list(
            pool.map(lambda n: run_make(kernel, tmp_path / f"m{n}", "modules", log=log), range(8))
        )
    said = log.read_text()
    assert all(output in said for output in outputs)
    assert said.count("$ env -i ") == 8 and os.environ["PATH"] in said
