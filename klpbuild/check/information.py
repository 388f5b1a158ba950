"""Check what a module states about itself: .modinfo, licence, layout."""

from __future__ import annotations

from klpbuild.check import catalogue
from klpbuild.check.kernelside import KernelSide, found_section
from klpbuild.check.rule import Effect
from klpbuild.check.structmodule import THIS_MODULE
from klpbuild.check.subject import Subject
from klpbuild.elf.constants import SHF, SHN_UNDEF, SHT

ENABLE = "klp_enable_patch"

#: All modules together have no more room (MODULES_LEN of x86).
_SPACE = 1 << 30
#: kernel/module/main.c, license_is_gpl_compatible (include/linux/license.h).
_GPL = (
    "GPL",
    "GPL v2",
    "GPL and additional rights",
    "Dual BSD/GPL",
    "Dual MIT/GPL",
    "Dual MPL/GPL",
)
_WRITABLE_CODE = SHF.WRITE | SHF.EXECINSTR
_EXECUTABLE = SHF.ALLOC | SHF.EXECINSTR


def is_gpl(subject: Subject) -> bool:
    """Tell whether the module may use symbols that are for the GPL only."""
    return subject.info.get("license", ["unspecified"])[0] in _GPL


def is_livepatch(subject: Subject) -> bool:
    """Tell whether the module is marked as a livepatch, or acts as one."""
    return "livepatch" in subject.info or ENABLE in undefined_names(subject)


def undefined_names(subject: Subject) -> frozenset[str]:
    """List the names of the module's undefined symbols."""
    elf = subject.elf
    undefined = elf.symbols["st_shndx"] == SHN_UNDEF
    return frozenset(elf.symbol_name(n) for n in undefined.nonzero()[0].tolist())


def check_information(subject: Subject) -> None:
    """Check everything that the module states about itself."""
    elf, info = subject.elf, subject.info
    size = elf.section(THIS_MODULE)
    _check_flags(subject)
    _check_layout(subject)
    _check_livepatch(subject)
    if subject.kernel is None:
        return
    _check_kernel(subject, subject.kernel)
    wanted = subject.kernel.module_size
    if wanted is None:
        subject.not_checked(catalogue.MODULE_SIZE, "no module of the kernel is at hand")
    elif size is not None and size.sh_size != wanted:
        what = f"struct module has {size.sh_size} bytes, and the kernel's modules have {wanted}"
        subject.find(catalogue.MODULE_SIZE, what, THIS_MODULE)
    if "vermagic" in info:
        _check_vermagic(subject, subject.kernel, info["vermagic"][0])


def _check_flags(subject: Subject) -> None:
    """Check section flags as module_enforce_rwx_sections() of kernel/module/strict_rwx.c."""
    kernel = subject.kernel
    if kernel and not kernel.config.enabled("STRICT_MODULE_RWX"):
        return
    for section in subject.elf.sections:
        if section.sh_flags & _WRITABLE_CODE == _WRITABLE_CODE:
            what = f"section {section.name or section.index} is writable and executable"
            rule, index = catalogue.WRITABLE_CODE, section.index
            subject.find(rule, what, section.name, section=section.name, index=index)


def _check_layout(subject: Subject) -> None:
    """Check sizes and alignments, which module_get_offset() of kernel/module/main.c adds up."""
    for section in subject.elf.sections:
        align = section.sh_addralign
        if not section.sh_flags & SHF.ALLOC:
            continue
        if align & (align - 1) or align > _SPACE:
            what = f"section {section.name} has an alignment of {align:#x}"
            # ALIGN() makes some other alignment of what is no power of two.
            rule = catalogue.BROKEN if align > _SPACE else catalogue.LENIENT
            subject.find(rule, what, section.name)
        if section.sh_size > _SPACE:
            what = f"section {section.name} has {section.sh_size:,} bytes"
            subject.find(catalogue.BROKEN, what, section.name)


def _check_livepatch(subject: Subject) -> None:
    info, names = subject.info, undefined_names(subject)
    if "livepatch" not in info:
        if ENABLE in names:
            subject.find(catalogue.NOT_MARKED, "has no modinfo 'livepatch'", ".modinfo")
        else:
            what = f"has no modinfo 'livepatch' and does not call {ENABLE}()"
            subject.find(catalogue.NOT_LIVEPATCH, what)
    elif ENABLE not in subject.references.values():
        subject.find(catalogue.NOT_LIVEPATCH, f"does not call {ENABLE}()")
    if ENABLE in names and not is_gpl(subject):
        said = info.get("license", ["unspecified"])[0]
        subject.find(catalogue.LICENCE, f"the licence is {said!r}", ".modinfo")


def _check_kernel(subject: Subject, kernel: KernelSide) -> None:
    info, config, elf = subject.info, kernel.config, subject.elf
    signature = subject.signature
    if signature is None and config.enabled("MODULE_SIG_FORCE"):
        subject.find(catalogue.UNSIGNED, "is not signed")
    elif signature is not None and signature.problem and config.enabled("MODULE_SIG"):
        subject.find(catalogue.BAD_SIGNATURE, signature.problem, said=signature.says)
    elif signature is not None and config.enabled("MODULE_SIG_FORCE"):
        why = "whether the kernel knows the key is in its keyrings"
        subject.not_checked(catalogue.UNSIGNED, why, subject.name)
    if "livepatch" in info and not config.enabled("LIVEPATCH"):
        subject.find(catalogue.NO_LIVEPATCH_SUPPORT, "CONFIG_LIVEPATCH is not set")
    if "vermagic" not in info:
        forced = config.enabled("MODULE_FORCE_LOAD")
        effect = Effect.WARNED if forced else Effect.REFUSED
        subject.find(catalogue.NO_VERMAGIC, "has no modinfo 'vermagic'", ".modinfo", effect)
    protected = config.enabled("RETPOLINE") or config.enabled("MITIGATION_RETPOLINE")
    if protected and "retpoline" not in info and _has_code(subject):
        subject.find(catalogue.NO_RETPOLINE, "has no modinfo 'retpoline'", ".modinfo")
    if config.enabled("UNWINDER_ORC") and _has_code(subject):
        unwind = elf.section(".orc_unwind"), elf.section(".orc_unwind_ip")
        if not all(section and section.sh_size for section in unwind):
            subject.find(catalogue.NO_ORC, "has code, and no .orc_unwind and .orc_unwind_ip")


def _has_code(subject: Subject) -> bool:
    return any(
        s.sh_flags & _EXECUTABLE == _EXECUTABLE and s.sh_size and s.sh_type == SHT.PROGBITS
        for s in subject.elf.sections
    )


def _check_vermagic(subject: Subject, kernel: KernelSide, found: str) -> None:
    """Compare vermagic as same_magic() of kernel/module/version.c does."""
    wanted = kernel.vermagic
    versions = found_section(subject.elf, "__versions")
    with_crcs = kernel.config.enabled("MODVERSIONS") and versions is not None
    same = found == wanted
    if with_crcs:
        same = found.partition(" ")[1:] == wanted.partition(" ")[1:]
    if not same:
        what = f"vermagic is {found!r}, and the kernel's is {wanted!r}"
        name = subject.information_name
        subject.find(catalogue.VERMAGIC, what, ".modinfo", found=found, wanted=wanted, module=name)
