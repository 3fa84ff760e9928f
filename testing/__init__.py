"""What proves an adapter, published for third parties.

`memory`: a platform in memory, with faults on demand. `records`: builders of realistic records.
`contract`: the suite that every adapter passes; `hostile`: the runs that it is fed with.
"""
