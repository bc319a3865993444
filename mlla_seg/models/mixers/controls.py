"""Controls: mixers without global context, which a useful mixer must beat.

If each pixel attended only to itself, attention would return x (q.k x / q.k = x), so y = x + LePE(x) is MLLA's mixer
without global context. From identity through lepe and lepe_matched to linear_attention, each step adds one thing: local
convolution, parameters, global context.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from mlla_seg.models.mixers.depthwise import depthwise_conv


class Identity(nn.Module):
    """No mixer, y = x."""

    def __init__(self, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return x


class Lepe(nn.Module):
    """Local convolution only, y = x + LePE(x): MLLA's mixer if each pixel attended only to itself."""

    def __init__(self, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.lepe = depthwise_conv(dim, kernel)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return x + self.lepe(x)


class LepeMatched(nn.Module):
    """Local mixer with as many parameters as :class:`~mlla_seg.models.mixers.attention.LinearAttention`.

    ``y = x + a * sigmoid(b) + LePE(x)`` with ``a, b = split(Linear(x))``: the query and key projection becomes a
    pixelwise gated linear unit (arXiv 1612.08083). It is not named ``qk``, so that it never loads attention weights.
    """

    def __init__(self, dim: int, num_heads: int, kernel: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.glu = nn.Linear(dim, 2 * dim)
        self.lepe = depthwise_conv(dim, kernel)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        return x + F.glu(self.glu(x), dim=-1) + self.lepe(x)
