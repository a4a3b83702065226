"""Models of ``configs/*.yaml``: every key is known, every value has its type, every error names both."""

from bftembed.config.loading import dump_config as dump_config
from bftembed.config.loading import init_config as init_config
from bftembed.config.loading import load_config as load_config
from bftembed.config.loading import save_config as save_config
from bftembed.config.loading import templates as templates
from bftembed.config.recipes import GrpoConfig as GrpoConfig
from bftembed.config.recipes import ProfileSet as ProfileSet
from bftembed.config.recipes import RunConfig as RunConfig
from bftembed.config.recipes import Strict as Strict
from bftembed.config.recipes import TuneConfig as TuneConfig
