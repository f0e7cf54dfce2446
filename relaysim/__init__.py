from relaysim import tasks, topology
from relaysim.algorithms import *
from relaysim.mixing import *
from relaysim.simulate import simulate
from relaysim.mixing import relay_sum,gossip,push,one_peer_exponential,all_reduce,deal
