"""ELF in and out: `reader.ElfFile` reads, `writer.ElfObject` changes and writes."""
