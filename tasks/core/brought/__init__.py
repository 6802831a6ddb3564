"""A finished ONNX file as the original: checked at the door, bound to the data by names, then used as it is.

:mod:`~tasks.core.brought.door` reads the file, :mod:`~tasks.core.brought.bind` finds the data of its inputs,
:mod:`~tasks.core.brought.outputs` reads what it answers, :mod:`~tasks.core.brought.encoder` is between rows and file.
"""

#: The file's name among the outputs of `tune`: the user's file, or the same with its external data inside.
FILE = "original.onnx"
