"""Settings of the long-running commands: parsed and checked once, each with a safe default.

`servesettings` and `controllersettings` each have one list, `OPTIONS`: the flags of the command, its configuration file
and the reference page are made from it. Related settings are a frozen dataclass, a section, which is passed whole to
where it is used. A setting has the name that kube-apiserver or kube-controller-manager gives it, if they have it, and
keeps it on the way. Flags take precedence over the file.
"""
