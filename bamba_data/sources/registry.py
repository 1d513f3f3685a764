"""The corpora that a recipe may name. A new one is its own file, and one line here."""

from typing import Annotated

from pydantic import Field

from bamba_data.sources.cosmopedia import Cosmopedia
from bamba_data.sources.dolma import DolmaV17
from bamba_data.sources.fineweb_edu import FineWebEdu
from bamba_data.sources.folder import Folder
from bamba_data.sources.smollm_corpus import SmolLMCorpus

AnyCorpus = Annotated[
    DolmaV17 | FineWebEdu | Cosmopedia | SmolLMCorpus | Folder,
    Field(discriminator="corpus"),
]
