"""The corpora that a recipe may name. A new one is its own file, and one line here."""

from typing import Annotated

from pydantic import Field

from bamba_data.sources.cosmopedia import Cosmopedia
from bamba_data.sources.dclm_baseline import DCLMBaseline
from bamba_data.sources.dolma import DolmaV17
from bamba_data.sources.dolmino_mix import DolminoMix
from bamba_data.sources.finemath import FineMath
from bamba_data.sources.fineweb_edu import FineWebEdu
from bamba_data.sources.folder import Folder
from bamba_data.sources.nemotron_cc import NemotronCC
from bamba_data.sources.olmo_mix import OLMoMix
from bamba_data.sources.smollm_corpus import SmolLMCorpus

AnyCorpus = Annotated[
    DolmaV17
    | FineWebEdu
    | Cosmopedia
    | SmolLMCorpus
    | OLMoMix
    | DolminoMix
    | NemotronCC
    | FineMath
    | DCLMBaseline
    | Folder,
    Field(discriminator="corpus"),
]
