-- Looks, and changes nothing.
-- KEYS: lock, fence   Returns {4, owner or '', pttl, token}; a pttl of -2 says that there is no lock.
return {4, redis.call('GET', KEYS[1]) or '', redis.call('PTTL', KEYS[1]), tonumber(redis.call('GET', KEYS[2]) or 0)}
