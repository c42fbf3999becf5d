-- Takes the lock if it is free, and then counts its fencing token up and writes the attempt's id beside it.
-- KEYS: lock, fence (none: the lock is unfenced)
-- ARGV: owner, ttl ms, proposed token, fence ttl ms, id ('' for a random owner)
-- Returns token: granted now; {1, token}: granted to this very attempt before; {0, pttl, hash, name}: another owner's, a hash
--         that tells locks apart, and what its holder is called, if it has a name; {6, pttl, hash}: this owner's, but
--         another attempt's; {7, pttl, hash, name}: the key is done; {-2}: the attempt has ended.
-- The fence holds `counter`, `counter id`, or an id with a letter behind it that is no digit of ids: `h` for a lock that
-- is held, `x` for an attempt that has ended.
local taken = redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if taken and not taken.err then
  if not KEYS[2] then return 0 end
  local fence = redis.pcall('GET', KEYS[2]) or '0'
  local token, digits, counter, refusal = tonumber(ARGV[3]), ARGV[3], tonumber(fence), nil
  if type(fence) == 'table' then
    refusal = fence
  elseif not counter or counter >= token then
    -- Not the usual case: an id beside the counter, a clock behind it, or no counter at all.
    local number, id, state = string.match(fence .. ' ', '^(%d+) (%x*)([hx]?) ?$')
    token = number and math.max(tonumber(number) + 1, token)
    if not token or token > 9e15 then
      -- Above 2^53 numbers are not exact.
      refusal = redis.error_reply('ERR the fencing counter holds no usable number')
    elseif state == 'x' and id == ARGV[5] and id ~= '' then
      -- What comes behind the undo of its own attempt must not take the lock: nobody would release it.
      refusal = {-2}
    else
      digits = string.format('%.0f', token)
    end
  end
  if not refusal then
    local mark = ARGV[5] ~= '' and ' ' .. ARGV[5] or ''
    local counted = redis.pcall('SET', KEYS[2], digits .. mark, 'PX', ARGV[4])
    if not counted.err then return token end
    refusal = counted
  end
  -- Without its counter the lock must not be had.
  redis.call('DEL', KEYS[1])
  return refusal
end
local owner = redis.call('GET', KEYS[1])
-- Whose a lock is can be told without the memory that it takes to set one.
if taken and not (owner and string.find(taken.err, 'OOM ', 1, true)) then
  -- Redis 6 puts the place in the script before the server's words.
  return redis.error_reply((string.gsub(taken.err, '^@user_script: %d+: %-', '')))
end
local fence = KEYS[2] and redis.call('GET', KEYS[2]) or '0'
local counter, id = string.match(fence .. ' ', '^(%d+) (%x*)[hx]? ?$')
-- Without its counter, what was granted before cannot be granted again: the token would not grow.
if owner == ARGV[1] and id == ARGV[5] and (counter ~= '0' or not KEYS[2]) then return {1, tonumber(counter)} end
local hash = string.sub(redis.sha1hex(owner .. ' ' .. (id or '')), 1, 8)
-- A holder's name, if there is one, is all that may be told of an owner token. A nil ends the reply before it.
local name = #owner < 256 and string.match(owner, '^\1?\1?([^/%c]+)/\1' .. string.rep('[%da-f]', 32) .. '$') or nil
local whose = owner == ARGV[1] and 6 or string.sub(owner, 1, 2) == '\1\1' and 7 or 0
return {whose, redis.call('PTTL', KEYS[1]), hash, name}
