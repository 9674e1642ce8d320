const banner = document.createElement('p');
banner.setAttribute('role', 'status');
document.body.append(banner);

const say = (text) => () => (banner.textContent = text);
addEventListener('holdover:interrupted', say('Connection lost. Reconnecting…'));
addEventListener('holdover:resumed', say(''));
addEventListener('holdover:ended', say(''));
addEventListener('holdover:stopped', say(''));
addEventListener('holdover:failed', say('The answer was lost.'));
