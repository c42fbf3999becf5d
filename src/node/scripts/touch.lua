-- Raises the fencing counter and extends, heals or adopts, only for the owner.
-- KEYS: lock, fence   ARGV: owner, ttl ms (0: leave the expiry), token, fence ttl ms, 'keep' | 'heal' | 'adopt'
-- Returns {2, token, pttl}: the owner's; {1, token}: put back; {0, pttl, hash}: another owner's; {-1}: gone.
-- What PTTL says is not the same on a replica. Redis 6 with `lua-replicate-commands no`, which has replicas run the
-- script, allows no write after it, unless it is told to send them the writes instead. Others always do.
if redis.replicate_commands then redis.replicate_commands() end
local token = tonumber(redis.call('GET', KEYS[2]) or 0)
if not token or math.max(token, tonumber(ARGV[3])) > 9e15 then return redis.error_reply('ERR the fencing counter holds no usable number') end
local held, ttl = tonumber(ARGV[3]), tonumber(ARGV[2])
local owner = redis.call('GET', KEYS[1])
if not owner then
  if ARGV[5] ~= 'heal' then return {-1} end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
elseif owner ~= ARGV[1] then
  return {0, redis.call('PTTL', KEYS[1]), string.sub(redis.sha1hex(owner), 1, 8)}
elseif ARGV[5] == 'adopt' and token ~= held then
  return {2, token, redis.call('PTTL', KEYS[1])}
elseif ttl > redis.call('PTTL', KEYS[1]) and ttl > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
-- When memory is short, a SET is refused unless the script has written before, so that PEXPIRE comes first.
local is_counted = redis.call('PEXPIRE', KEYS[2], ARGV[4]) == 1 and token >= held
token = math.max(token, held)
if not owner or not is_counted then redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[4]) end
if not owner then return {1, token} end
return {2, token, ttl}
