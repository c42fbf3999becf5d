-- Takes the lock if it is free, and then counts its fencing token up.
-- KEYS: lock, fence   ARGV: owner, ttl ms, proposed token, fence ttl ms
-- Returns {1, token, pttl}: granted by this very proposal; {2, token, pttl}: the owner's already;
--         {0, pttl, hash}: another owner's, and a hash that tells holders apart.
-- The counter is read first: if it is of the wrong type, nothing must have been written.
local token = tonumber(redis.call('GET', KEYS[2]) or 0)
if not token or token > 9e15 then return redis.error_reply('ERR the fencing counter holds no usable number') end
local proposed = tonumber(ARGV[3])
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  token = math.max(token + 1, proposed)
  redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[4])
  return {1, token, tonumber(ARGV[2])}
end
local owner = redis.call('GET', KEYS[1])
local pttl = redis.call('PTTL', KEYS[1])
if owner ~= ARGV[1] then return {0, pttl, string.sub(redis.sha1hex(owner), 1, 8)} end
-- Every proposal is above what the owner saw before, so a token at or above it was granted by it: the
-- command was sent twice. A token below it belongs to an earlier lock of this owner.
if token >= proposed then return {1, token, pttl} end
return {2, token, pttl}
