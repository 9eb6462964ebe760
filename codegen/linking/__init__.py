"""From kernels to files: machine code, OpenCL C, linkers, bundles of kernels alone."""
