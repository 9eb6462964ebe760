"""From a network to a bundle or a library: the compiler's side that never imports TVM."""
