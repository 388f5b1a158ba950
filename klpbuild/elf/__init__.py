"""Read ELF files (`reader.ElfFile`), change and write them (`writer.ElfObject`)."""
