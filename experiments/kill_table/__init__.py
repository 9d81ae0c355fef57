"""Compare the tools that judge backward passes, on wrong rules and on right ones.

`wrong_rules` and `right_rules` hold the exhibits, `judges` the tools, `table` the document.
`reports` shows what check_vjp says of some, `third_party` what it says of other packages' rules.
"""

from experiments.kill_table.table import Config, main

__all__ = ["Config", "main"]
