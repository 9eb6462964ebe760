"""The passes, one file each; a file's name is its pass's name (`-` written `_`)."""

if __name__ != "graphopt.passes":
    raise ImportError(
        "import graphopt.passes, not the bare folder: a second copy would register every pass twice"
    )
