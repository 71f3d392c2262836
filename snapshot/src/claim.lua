-- Makes somebody the partition's owner; what is there. KEYS[1]: the partition's tag. ARGV[1]: the owner.
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
local name = redis.call('HGET', KEYS[1], 'name')
if not name then return {} end
return {name, redis.call('HGET', KEYS[1], 'number:' .. name), redis.call('HGET', KEYS[1], 'head')}
