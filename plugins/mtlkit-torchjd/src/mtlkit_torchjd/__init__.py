"""Every weighting and aggregator of TorchJD, as strategies of mtlkit."""

import mtlkit
from mtlkit_torchjd.aligned_mtl import AlignedMTL
from mtlkit_torchjd.cagrad import CAGrad
from mtlkit_torchjd.cone import DualProj, UPGrad
from mtlkit_torchjd.config import ConFIG
from mtlkit_torchjd.cr_mogm import CRMOGM
from mtlkit_torchjd.excess_mtl import ExcessMTL
from mtlkit_torchjd.fairgrad import FairGrad
from mtlkit_torchjd.graddrop import GradDrop
from mtlkit_torchjd.imtl_g import IMTLG
from mtlkit_torchjd.krum import Krum
from mtlkit_torchjd.mgda import MGDA
from mtlkit_torchjd.nash_mtl import NashMTL
from mtlkit_torchjd.pcd import PCD
from mtlkit_torchjd.pcgrad import GradVac, PCGrad
from mtlkit_torchjd.plain import Constant, Mean, Random, Sum
from mtlkit_torchjd.simplex import MoDo, SDMGrad
from mtlkit_torchjd.trimmed_mean import TrimmedMean

torchjd_aligned_mtl = mtlkit.plugin(AlignedMTL)
torchjd_cagrad = mtlkit.plugin(CAGrad)
torchjd_config = mtlkit.plugin(ConFIG)
torchjd_constant = mtlkit.plugin(Constant)
torchjd_cr_mogm = mtlkit.plugin(CRMOGM)
torchjd_dualproj = mtlkit.plugin(DualProj)
torchjd_excess_mtl = mtlkit.plugin(ExcessMTL)
torchjd_fairgrad = mtlkit.plugin(FairGrad)
torchjd_graddrop = mtlkit.plugin(GradDrop)
torchjd_gradvac = mtlkit.plugin(GradVac)
torchjd_imtl_g = mtlkit.plugin(IMTLG)
torchjd_krum = mtlkit.plugin(Krum)
torchjd_mean = mtlkit.plugin(Mean)
torchjd_mgda = mtlkit.plugin(MGDA)
torchjd_modo = mtlkit.plugin(MoDo)
torchjd_nash_mtl = mtlkit.plugin(NashMTL)
torchjd_pcd = mtlkit.plugin(PCD)
torchjd_pcgrad = mtlkit.plugin(PCGrad)
torchjd_random = mtlkit.plugin(Random)
torchjd_sdmgrad = mtlkit.plugin(SDMGrad)
torchjd_sum = mtlkit.plugin(Sum)
torchjd_trimmed_mean = mtlkit.plugin(TrimmedMean)
torchjd_upgrad = mtlkit.plugin(UPGrad)
