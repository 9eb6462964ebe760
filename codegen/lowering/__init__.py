"""From Relax to kernels: fusing, layouts, a static plan of memory, stages before and behind."""
