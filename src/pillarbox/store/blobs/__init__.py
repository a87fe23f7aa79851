"""Large contents as files: zstd frames that can be read in parts, in a pool and in accounts' folders."""
