"""`fn.interop`: parameters and state to and from PyTorch and transformers."""

from funcnet.io.gpt2 import gpt2_state_dict, load_gpt2
from funcnet.io.state_dicts import load_state_dict, state_dict

__all__ = ["gpt2_state_dict", "load_gpt2", "load_state_dict", "state_dict"]
