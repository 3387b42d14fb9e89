"""The only autograd code: measure the tasks' gradients, weigh the losses, fill ``.grad``.

Letters: K tasks present; z the features, one tensor for each batch; L_i the losses; W the weights of the last shared
layer; P shared parameters; J the Jacobian ``[K, P]``, M = J J' the Gram matrix ``[K, K]``.

What a strategy needs decides what is computed, and no more of it than that:

- nothing: one plain backward of the weighted sum;
- gradients at the features or at W: the backward pass is cut at the features. Each loss is backpropagated to z and to
  its head once, which a plain backward would do too; what the strategy asked for is computed from the dL_i/dz; the
  encoder is backpropagated once, for the weighted sum;
- gradients at all shared parameters: each loss is backpropagated once, through its head and the encoder. The rows of J
  are kept and combined, so that nothing is backpropagated again. Where batches of the tasks' own went as one through
  linear layers, and features are slices of what came out, all losses are backpropagated at once, and J follows from
  what comes back to each layer. Memory: J.

A strategy that learns from held-out rows has ``look_ahead`` measure how their losses would answer to its weights, by
a trial step that is taken back, before the pass itself.

No second derivative is ever taken.
"""

from mtlkit.gradients.backpropagation import backward
from mtlkit.gradients.bank import BankLosses
from mtlkit.gradients.measurement import Measurement
from mtlkit.gradients.outlook import Outlook, look_ahead

__all__ = ["BankLosses", "Measurement", "Outlook", "backward", "look_ahead"]
