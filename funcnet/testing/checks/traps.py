"""Exceptions that `jax.custom_vjp` is known for, each with its cause and the right way."""

from __future__ import annotations

import traceback

# (a part of the exception's text or of its type's name, what it means)
KNOWN = (
    (
        "could not be resolved to positional-only",
        "a custom_vjp takes no keyword-only parameters: make them positional, or fix them with "
        "functools.partial",
    ),
    (
        "forward-mode autodiff (jvp) to a custom_vjp",
        "fwd or bwd calls the decorated function, whose forward mode JAX refuses: call undecorated "
        "functions only, then Hessians and Hessian-vector products work",
    ),
    (
        "closed-over value",
        "the rule closes over a value that is differentiated: pass it as an argument",
    ),
    (
        "Non-hashable static arguments",
        "jax.custom_vjp hands a function's defaults on as traced arguments, and these have to be "
        "static: wrap it in one of the differentiated arguments alone, as lambda x: jnp.sort(x)",
    ),
    (
        "positional argument",
        "fwd gets every argument of the function, its defaults included; bwd gets what "
        "nondiff_argnums names, the residuals and the cotangent",
    ),
    (
        "nondiff_argnums",
        "nondiff_argnums is for hashable static configuration, not for arrays: pass arrays as "
        "ordinary arguments and return None or zeros for them",
    ),
    (
        "UnexpectedTracerError",
        "a traced value escaped: an array in nondiff_argnums, a value closed over, or one kept in "
        "a global variable; pass it as an argument or as a residual",
    ),
    (
        "TracerBoolConversionError",
        "a Python `if`, `and` or `while` on an array's value: use jnp.where or lax.cond",
    ),
    (
        "TracerArrayConversionError",
        "NumPy was called on a traced array: use jax.numpy in fwd and bwd",
    ),
    (
        "ConcretizationTypeError",
        "Python needs the value of a traced array: make it static configuration, or use jnp.where",
    ),
    (
        "not a valid JAX type",
        "a residual or an argument is no array: residuals are arrays; static configuration goes "
        "into nondiff_argnums",
    ),
    ("No VJP defined", "the custom_vjp has no rule yet: call its defvjp(fwd, bwd)"),
    (
        "must produce a tuple of length equal to the number of arguments",
        "bwd returns one cotangent for each argument, in a tuple: `return (dx,)` for one",
    ),
    (
        "must produce a pair",
        "fwd returns (output, residuals)",
    ),
    (
        "ShardingTypeError",
        "the sharding of the product is ambiguous under Explicit mesh axes: use Auto axes, or give "
        "out_sharding",
    ),
    (
        "manual axis",
        "under shard_map the cotangent of a replicated argument has to be summed (psum) over the "
        "mesh axes on which it varies and the argument does not",
    ),
)


def is_rules_fault(error: BaseException) -> bool:
    """Whether an exception of a plain call comes from how a rule was declared."""
    text = str(error)
    return "could not be resolved to positional-only" in text or "No VJP defined" in text


def explain_exception(error: BaseException, doing: str) -> str:
    """What was being done, the exception, where it was raised, and the trap if it is known."""
    name = type(error).__name__
    text = str(error).strip()
    lines = [f"{doing} raises {name}: {_shortened(text)}"]
    frame = users_frame(error)
    if frame:
        lines.append(f"  raised at {frame}")
    trap = next((advice for key, advice in KNOWN if key in text or key in name), None)
    if trap:
        lines.append(f"  guess: {trap}")
    return "\n".join(lines)


def _shortened(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else text[:limit] + " ..."


def users_frame(error: BaseException) -> str:
    """The innermost line of the traceback that is in neither JAX nor this package."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/jax/" not in frame.filename and "/funcnet/testing/" not in frame.filename
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}, {frames[-1].line}" if frames else ""
