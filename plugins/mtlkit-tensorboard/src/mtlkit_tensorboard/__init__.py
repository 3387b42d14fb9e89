"""The curves of a run in TensorBoard. Importing this module imports neither torch nor tensorboard."""

import mtlkit
from mtlkit_tensorboard.hooks import TensorBoard

tensorboard = mtlkit.plugin(TensorBoard)
