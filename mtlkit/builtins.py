"""What ships inside mtlkit, in the same records that plugins give. A new component is one row here."""

from __future__ import annotations

__all__ = ["BUILTINS"]

# kind, name, the class
BUILTINS = (
    ("encoders", "cnn", "mtlkit.encoders.cnn:CNN"),
    ("encoders", "identity", "mtlkit.encoders.identity:Identity"),
    ("encoders", "mlp", "mtlkit.encoders.mlp:MLP"),
    ("encoders", "resnet", "mtlkit.encoders.resnet:ResNet"),
    ("encoders", "tabular", "mtlkit.encoders.tabular:Tabular"),
    ("encoders", "transformer", "mtlkit.encoders.transformer:Transformer"),
    ("encoders", "vit", "mtlkit.encoders.vit:ViT"),
    ("architectures", "hard-sharing", "mtlkit.architectures.hard_sharing:HardSharing"),
    ("strategies", "aligned-mtl", "mtlkit.strategies.aligned_mtl:AlignedMTL"),
    ("strategies", "auto-lambda", "mtlkit.strategies.auto_lambda:AutoLambda"),
    ("strategies", "cagrad", "mtlkit.strategies.cagrad:CAGrad"),
    ("strategies", "config", "mtlkit.strategies.config:ConFIG"),
    ("strategies", "db-mtl", "mtlkit.strategies.db_mtl:DBMTL"),
    ("strategies", "dualproj", "mtlkit.strategies.upgrad:DualProj"),
    ("strategies", "dwa", "mtlkit.strategies.dwa:DWA"),
    ("strategies", "excess-mtl", "mtlkit.strategies.excess_mtl:ExcessMTL"),
    ("strategies", "fairgrad", "mtlkit.strategies.nash_mtl:FairGrad"),
    ("strategies", "famo", "mtlkit.strategies.famo:FAMO"),
    ("strategies", "fixed", "mtlkit.strategies.fixed:Fixed"),
    ("strategies", "gls", "mtlkit.strategies.gls:GLS"),
    ("strategies", "graddrop", "mtlkit.strategies.graddrop:GradDrop"),
    ("strategies", "gradnorm", "mtlkit.strategies.gradnorm:GradNorm"),
    ("strategies", "gradvac", "mtlkit.strategies.pcgrad:GradVac"),
    ("strategies", "imtl", "mtlkit.strategies.imtl_g:IMTL"),
    ("strategies", "imtl-g", "mtlkit.strategies.imtl_g:IMTLG"),
    ("strategies", "imtl-l", "mtlkit.strategies.imtl_l:IMTLL"),
    ("strategies", "mgda", "mtlkit.strategies.mgda:MGDA"),
    ("strategies", "mgda-ub", "mtlkit.strategies.mgda:MGDAUB"),
    ("strategies", "moco", "mtlkit.strategies.moco:MoCo"),
    ("strategies", "modo", "mtlkit.strategies.modo:MoDo"),
    ("strategies", "moml", "mtlkit.strategies.moml:MOML"),
    ("strategies", "nash-mtl", "mtlkit.strategies.nash_mtl:NashMTL"),
    ("strategies", "pcgrad", "mtlkit.strategies.pcgrad:PCGrad"),
    ("strategies", "rlw", "mtlkit.strategies.rlw:RLW"),
    ("strategies", "sdmgrad", "mtlkit.strategies.sdmgrad:SDMGrad"),
    ("strategies", "stch", "mtlkit.strategies.stch:STCH"),
    ("strategies", "uncertainty", "mtlkit.strategies.uncertainty:Uncertainty"),
    ("strategies", "upgrad", "mtlkit.strategies.upgrad:UPGrad"),
)
