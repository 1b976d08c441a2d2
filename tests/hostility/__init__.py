"""Members and strangers of the same user that break every rule, against a live group.

A *siege* founds a group: a victim, a leader in a process of its own, and two bystanders who work
all the while and check what they get. Attackers come in pairs, one for the victim and one for the
leader, each a process that lives for some thousand misdeeds of one kind, drawn from the seed.
Afterwards nobody may have ended, nothing may have grown, and the bystanders must have been
answered, by the besieged too.

    siege        the group, its attackers, and what came of it
    board        memory in which all of them count
    people       the victim and the bystanders
    gauge        memory, descriptors and threads of a process, as the kernel counts them
    dice         numbers and bytes at which something changes
    lines        connections of attackers
    words        messages of the library, right and wrong
    members      misdeeds over the connection of a member
    strangers    misdeeds of who is no member: halves of messages, silence, floods
    memories     misdeeds in shared memory: lanes, bells, desks, slots of files, slabs
    kinds        the list of all

    python -m tests.hostility --count 1000000            a million of each kind
    python -m tests.hostility --only rings --count 5000  of one kind
    python -m tests.hostility --count 1000000 --minutes 5    of each what can be done in that time

The seed decides the misdeeds, not the moments at which they meet what the besieged do.
"""
