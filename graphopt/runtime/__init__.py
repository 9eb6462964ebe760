"""What runs networks: engines, bundles and their kernels on this machine, and comparing outputs."""
