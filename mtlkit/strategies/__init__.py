"""Loss-weighting strategies: one file each; ``base.py`` is the contract."""

from mtlkit.strategies.aligned_mtl import AlignedMTL
from mtlkit.strategies.auto_lambda import AutoLambda
from mtlkit.strategies.base import GramianStrategy, Needs, Over, Strategy, Weighting
from mtlkit.strategies.cagrad import CAGrad
from mtlkit.strategies.config import ConFIG
from mtlkit.strategies.db_mtl import DBMTL
from mtlkit.strategies.dwa import DWA
from mtlkit.strategies.excess_mtl import ExcessMTL
from mtlkit.strategies.famo import FAMO
from mtlkit.strategies.fixed import Fixed
from mtlkit.strategies.gls import GLS
from mtlkit.strategies.graddrop import GradDrop
from mtlkit.strategies.gradnorm import GradNorm
from mtlkit.strategies.imtl_g import IMTL, IMTLG
from mtlkit.strategies.imtl_l import IMTLL
from mtlkit.strategies.mgda import MGDA, MGDAUB
from mtlkit.strategies.moco import MoCo
from mtlkit.strategies.modo import MoDo
from mtlkit.strategies.moml import MOML
from mtlkit.strategies.nash_mtl import FairGrad, NashMTL
from mtlkit.strategies.pcgrad import GradVac, PCGrad
from mtlkit.strategies.rlw import RLW
from mtlkit.strategies.sdmgrad import SDMGrad
from mtlkit.strategies.stch import STCH
from mtlkit.strategies.uncertainty import Uncertainty
from mtlkit.strategies.upgrad import DualProj, UPGrad

__all__ = [
    "DBMTL",
    "DWA",
    "FAMO",
    "GLS",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "MGDAUB",
    "MOML",
    "RLW",
    "STCH",
    "AlignedMTL",
    "AutoLambda",
    "CAGrad",
    "ConFIG",
    "DualProj",
    "ExcessMTL",
    "FairGrad",
    "Fixed",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GramianStrategy",
    "MoCo",
    "MoDo",
    "NashMTL",
    "Needs",
    "Over",
    "PCGrad",
    "SDMGrad",
    "Strategy",
    "UPGrad",
    "Uncertainty",
    "Weighting",
]
